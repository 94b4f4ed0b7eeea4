"""Let QGIS draw polygons with the style they bring along, without a screen, and count its colours.

    QT_QPA_PLATFORM=offscreen /usr/bin/python3 benchmarks/qgis_look.py polygons.gpkg picture.png [west south east north]

It runs with the Python that QGIS was installed for (Debian: apt install qgis python3-qgis), not with that of landcover.
"""

import sys

from qgis.core import (
    Qgis,
    QgsApplication,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsRectangle,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor


def main(path: str, picture: str, *bounds: str) -> None:
    application = QgsApplication([], False)
    application.initQgis()
    layer = QgsVectorLayer(f"{path}|layername=landcover", "landcover", "ogr")
    assert layer.isValid(), path
    renderer = layer.renderer()
    print(f"QGIS {Qgis.QGIS_VERSION}: {layer.featureCount()} features, {layer.crs().authid()}, {renderer.type()}")
    for category in renderer.categories():
        print(f"  {category.value()}: {category.symbol().color().name()}")
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(layer.crs())
    settings.setBackgroundColor(QColor("white"))
    settings.setOutputSize(QSize(700, 700))
    settings.setExtent(QgsRectangle(*map(float, bounds)) if bounds else layer.extent())
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    assert not job.errors(), [e.message for e in job.errors()]
    job.renderedImage().save(picture)
    application.exitQgis()


if __name__ == "__main__":
    main(*sys.argv[1:])
