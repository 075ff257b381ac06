"""Common words of several languages: sentences for the synthetic voices are drawn from them."""

WORDS = {
    "en-us": """the a we they you she morning people always number over water window because quick little open
        sound house never remember yellow through apple moving story paper summer finger voice kind evening table
        listen together thousand mountain believe bottle music question happy around every maybe quiet""",
    "en-gb": """she may bring the old boat home before evening while we know enough about thunder and bright colours
        in garden pictures please tell them to open another letter from uncle perhaps a bigger measure of sugar""",
    "de": """der die das wir sie und aber heute Morgen Wasser Fenster öffnen klein immer schnell Haus Geschichte Sommer
        Stimme Abend Tisch hören zusammen tausend Berg glauben Flasche Musik Frage glücklich jeder vielleicht über""",
    "fr": """le la nous vous elle mais toujours matin personne eau fenêtre ouvrir petit maison jamais histoire papier
        été voix soir table écouter ensemble mille montagne croire bouteille musique question heureux chaque""",
    "es": """el la nosotros ella pero siempre mañana gente agua ventana abrir pequeño casa nunca historia papel verano
        voz tarde mesa escuchar juntos mil montaña creer botella música pregunta feliz cada quizás alrededor""",
    "it": """il la noi lei ma sempre mattina gente acqua finestra aprire piccolo casa mai storia carta estate voce sera
        tavolo ascoltare insieme mille montagna credere bottiglia musica domanda felice ogni forse intorno""",
    "pl": """my ona ale zawsze rano ludzie woda okno otworzyć mały dom nigdy historia papier lato głos wieczór stół
        słuchać razem tysiąc góra wierzyć butelka muzyka pytanie każdy może wokół dobry szybko""",
    "ru": """мы она но всегда утро люди вода окно открыть дом никогда история бумага лето голос вечер стол слушать
        вместе тысяча гора верить бутылка музыка вопрос каждый может вокруг хороший быстро""",
    "tr": """biz ama her zaman sabah insan su pencere açmak küçük ev asla hikaye kağıt yaz ses akşam masa dinlemek
        birlikte bin dağ inanmak şişe müzik soru mutlu her belki etrafında güzel""",
    "cmn-latn-pinyin": """wo3 men5 ta1 shi4 zao3 shang4 ren2 shui3 chuang1 hu5 da3 kai1 xiao3 fang2 zi5 gu4 shi5 zhi3
        xia4 tian1 sheng1 yin1 wan3 zhuo1 ting1 yi1 qi3 qian1 shan1 xin1 yin1 yue4 wen4 ti2 kuai4 le4""",
}
